"""Line devices: from a bundle to a model in flash, over a serial port.

compiler/    TFLite -> model image, which `firmware/` (C11) reads in place, row by row
link, device, flash, bench    what a host says to a device
emulation/   the firmware without a board; proof/ what holds it to its promises
"""
