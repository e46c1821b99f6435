//! What an iteration costs: the time of every operator, from a model's shape and a device's profile.
