"""The page to try trained models on: `vqwave app`.

`session`, `editing` and `models` are what the page does, without gradio; `pictures` draws; `page`
lays it out and `server` serves it, on gradio (extra `app`).
"""
