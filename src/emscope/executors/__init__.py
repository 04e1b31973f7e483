"""WORK: heavy work cut into shards, and who carries it out: this process, or workers of a Ray cluster.

It knows nothing of models, questions or runs. `tasks` is the contract, `local` and `ray_pool` carry it out.
"""
