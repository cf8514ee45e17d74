"""Many photographs in one run: which belong together, what was done before, and how they are filled.

``pairs`` finds photographs and masks, ``task`` fills one photograph, from bytes to bytes, ``step`` from file to file,
and ``manifest`` remembers what is done. ``local`` runs it all on this machine, ``ray_engine`` on a cluster.
"""
