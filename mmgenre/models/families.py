"""The families that read one kind of input. To add a family, write its file and add its config to a union here.

A family listed here can be trained alone and as a tower of a fusion.
"""

from mmgenre.models.bilstm import BilstmConfig
from mmgenre.models.clip import ClipConfig
from mmgenre.models.efficientnet import EfficientNetConfig
from mmgenre.models.tfidf import TfidfConfig
from mmgenre.models.transformer import TransformerConfig
from mmgenre.models.vgg import VggConfig

TextModelConfig = TfidfConfig | BilstmConfig | TransformerConfig
PosterModelConfig = VggConfig | EfficientNetConfig | ClipConfig
