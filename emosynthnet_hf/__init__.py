"""EmoSynthNet for Hugging Face: importing this package registers it with the Auto classes of transformers."""

from transformers import AutoConfig, AutoModel, AutoModelForImageClassification

from .configuration_emosynthnet import EmoSynthNetConfig
from .modeling_emosynthnet import EmoSynthNetForImageClassification, EmoSynthNetModel

AutoConfig.register("emosynthnet", EmoSynthNetConfig)
AutoModel.register(EmoSynthNetConfig, EmoSynthNetModel)
AutoModelForImageClassification.register(EmoSynthNetConfig, EmoSynthNetForImageClassification)

__version__ = "0.1.0"

__all__ = ["EmoSynthNetConfig", "EmoSynthNetForImageClassification", "EmoSynthNetModel"]
