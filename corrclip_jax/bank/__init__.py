"""Banks of unlabelled images on disk: folders of rows and a manifest, published indices, building and merging.

May import `conversion`, `method.bank` and below. Begin with `folder.py`.
"""
