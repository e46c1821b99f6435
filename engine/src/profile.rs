//! What a device can do: its data sheet, how much of it each operator reaches, and what an hour of it costs.
