"""``torch.hub.load(repository, name, ...)`` for every model of the zoo."""

import zoo

dependencies = ["torch", "huggingface_hub", "timm"]

globals().update({name: zoo.model_entrypoint(name) for name in zoo.list_models()})
