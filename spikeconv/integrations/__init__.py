"""What ties converted models to transformers. Its models come first: `_register` imports `transformers` of ours right
behind them, which no module of ours may be halfway through then."""

import transformers.modeling_utils  # noqa: F401
