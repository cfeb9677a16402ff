"""fewstep: better pictures in fewer network calls, for any diffusers pipeline."""

__version__ = "0.1.0"
