//! The shapes of the models people serve, and what follows from them: parameters, weight bytes, KV bytes per token.
