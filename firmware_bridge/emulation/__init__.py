"""The firmware built and run without a board: as a library, as a process, under QEMU."""
