"""What each defense does to the client's computation: one file for each defense, named as in ``bounds``.

Every file has ``channel(defense, net, X, y, groups, seed) -> gradient (m,)``, the entries that the server sees.
"""
