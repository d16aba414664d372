"""The GPUs that a checkpoint needs: the documented memory table, the rules over it, and `antiphon size`.

Every number says where it is from: *documented* by the model's authors, *derived* from that by a rule stated here,
*counted* by the talker engine's own memory plan, *measured* on a named GPU, or *assumed*.
"""
