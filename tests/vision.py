"""Image towers of random weights that compute in milliseconds."""

VISION = {
    name: {
        "model_type": name,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "image_size": 32,
        "patch_size": 8,
    }
    for name in ("clip_vision_model", "vit")
}
