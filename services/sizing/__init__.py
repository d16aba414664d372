"""How much of which GPU a checkpoint needs: the documented table, what follows from it, and `antiphon size`.

Every number bears where it is from: *documented* by the model's authors, *derived* from that by a rule stated here, or
*assumed*. None is *measured* on GPUs yet.
"""
