"""What requests tell our parts inside the engine, in SamplingParams.extra_args."""

# {"id": str, "spans": [[start, end), …]}: the prompt's rows that hidden_states.connector sends out.
HIDDEN_STATES = "antiphon_hidden_states"
# How many tokens the request's seed has drawn already, elsewhere.
DRAWS = "antiphon_draws"
