"""What the proving commands do: open the data, call the room, leave a record.

As `verbs.py`, whose helpers it uses: imports stages inside functions alone. Leaves out:
printing and exit codes (`cli_proof.py`).
"""

from __future__ import annotations
