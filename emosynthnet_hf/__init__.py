"""EmoSynthNet for Hugging Face: importing this package registers it with the Auto classes of
transformers."""

from transformers import AutoConfig, AutoImageProcessor, AutoModel, AutoModelForImageClassification

from . import losses
from .collator import EmoSynthNetCollator
from .configuration_emosynthnet import EmoSynthNetConfig
from .image_processing_emosynthnet import EmoSynthNetImageProcessor
from .modeling_emosynthnet import EmoSynthNetForImageClassification, EmoSynthNetModel

AutoConfig.register("emosynthnet", EmoSynthNetConfig)
AutoModel.register(EmoSynthNetConfig, EmoSynthNetModel)
AutoModelForImageClassification.register(EmoSynthNetConfig, EmoSynthNetForImageClassification)
AutoImageProcessor.register(
    EmoSynthNetConfig, image_processor_classes={"pil": EmoSynthNetImageProcessor}
)

__version__ = "0.1.0"

__all__ = [
    "EmoSynthNetCollator",
    "EmoSynthNetConfig",
    "EmoSynthNetForImageClassification",
    "EmoSynthNetImageProcessor",
    "EmoSynthNetModel",
    "losses",
]
