"""The web app, `fewstep app`: a page to draw, compare, write, edit and restore.

One tab is two files: what it computes (`draw.py`, plain functions) and what it looks like (`draw_tab.py`). gradio is
imported by the second kind alone, and by `page.py`, `server.py` and `guarded.py`.

    settings   what the owner of the server decided          models     loads each model once
    jobs       one job at a time, progress, cancel            bench      the jobs of a page, as events of gradio
    uploads    pictures of strangers, bounded and decoded     messages   errors as sentences without paths
    fields     a widget for a field of a dataclass            repeat     the same run as a command and as Python
"""
