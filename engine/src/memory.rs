//! How many tokens of KV fit beside the weights, and where every other byte of device memory goes.
