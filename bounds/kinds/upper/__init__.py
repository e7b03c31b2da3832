"""Proved upper bounds, every constant explicit.

``theorem``: the statements and the ``Bound``. ``span``: any B, distance from the attack's span; ``one_feature``,
``inplane``: the error, each on top of a span theorem. ``case``, ``plane``: what they start from; ``budget``: steps and
their events; ``fluctuations``, ``sizes``, ``remainders``, ``products``: the in-plane theorem's random half;
``identification``, ``fitted``: its deterministic one; ``fresh``, ``split``: the
random half where the moments have neurons of their own. Proofs: ``bounds/proofs``.
"""
