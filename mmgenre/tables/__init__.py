"""Tables on disk: Parquet parts, manifests, storage and schemas."""
