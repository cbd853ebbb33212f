"""One report of a run or a model file: evidence is gathered, measured, put into sections, and written."""
