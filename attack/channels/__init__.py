"""What each defense does to the client's computation: one file for each defense, named as in ``bounds``.

Every file has ``channel(defense, client, groups, seed) -> gradient``, the entries that the server sees; ``groups`` (B,)
partitions the samples over clients or local batches. A channel acts on ``attack.client.Client`` alone, so it serves every
network and every layer. The channel of a defense from outside the tree is given by ``attack.register_channel``.
"""
