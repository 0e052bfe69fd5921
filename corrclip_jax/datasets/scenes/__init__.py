"""Generated scenes with exact ground truth: shapes, textures, captions, and the data set they form."""
