"""The core: processes, grids, weights, what a method is, the loop, noise, the registry, exact denoisers."""
