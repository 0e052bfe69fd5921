"""Web page: photos and class names in a browser, labelled on this machine.

Only `page.py` needs Gradio (the extra `app`). Begin with `answers.py`.
"""
