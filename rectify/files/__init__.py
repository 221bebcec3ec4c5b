"""The edge of the program: the only room that opens files: checkpoints, preprocessing, images, and what is written."""
