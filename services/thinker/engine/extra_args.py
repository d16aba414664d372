"""What requests tell our parts inside the engine, in SamplingParams.extra_args."""

# {"id": str, "spans": [[start, end), …]}: the prompt's rows that hidden_rows.connector sends out.
HIDDEN_ROWS = "antiphon_hidden_rows"
# How many tokens the request's seed has drawn already, elsewhere.
DRAWS = "antiphon_draws"
