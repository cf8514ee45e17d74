"""Many photographs in one run: which belong together, what was done before, and how they are filled.

``pairs`` finds photographs and masks, ``task`` fills one photograph, from bytes to bytes, ``manifest`` remembers what
is done, and ``local`` runs it all on this machine.
"""
