"""Transfer: parts of another model as a start, and parts that training leaves alone."""

from weft.transfer.declaration import Transfer
from weft.transfer.donor import Donor, open_donor
from weft.transfer.freezing import fingerprint, moved
from weft.transfer.plan import START, Plan, planned

__all__ = ["START", "Donor", "Plan", "Transfer", "fingerprint", "moved", "open_donor", "planned"]
