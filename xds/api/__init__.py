"""What users write: one module per API group, raw JSON to frozen typed objects."""
