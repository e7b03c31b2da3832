"""Proved upper bounds, every constant explicit.

``theorem``: the statements and the ``Bound``. ``span``: any B, distance from the attack's span; ``one_feature``,
``inplane``: the error, each on top of a span theorem. ``case``, ``plane``: what they start from; ``budget``: steps and
their events; ``fluctuations``, ``sizes``, ``remainders``, ``products``: the in-plane theorem's random half;
``identification``: its deterministic one. Proofs: ``bounds/proofs``.
"""
