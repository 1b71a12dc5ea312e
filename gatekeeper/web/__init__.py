"""The review pages: where people read what a gate asks, and decide it.

`view.py` and `picture.py` make what is shown of a plan (pure), `desk.py` reads the log and publishes answers, `app.py`
has the routes, `serve.py` listens. Pages need no JavaScript and load nothing from elsewhere.
"""
