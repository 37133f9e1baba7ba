"""The way to line devices: so far, finding their serial ports.

Not here yet: the row-streaming engine, the model image, flashing and the emulated boards.
"""
