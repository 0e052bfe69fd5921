"""Banks of unlabelled images on disk: folders of rows and a manifest, published indices, building and merging.

Begin with `folder.py`.
"""
