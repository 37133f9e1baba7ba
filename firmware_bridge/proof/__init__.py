"""What holds the firmware to its promises: every fault, fuzzing, and what it takes of a board."""
