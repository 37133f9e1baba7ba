"""From a TFLite file or a bundle to a model image that a line device reads in place."""
