"""The audit trail of a box: every verdict, its picture, and judging it again."""
