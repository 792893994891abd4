"""Maps that are kept current: scheduled, incremental, published whole or not at all."""
