"""Networks: functions of one sample and one number, which know nothing of diffusion."""

from ._base import AbstractNetwork as AbstractNetwork
from ._edm import DhariwalUNet as DhariwalUNet
from ._edm import SongUNet as SongUNet
from ._edm_block import UNetBlock as UNetBlock
from ._edm_embedding import NoiseEmbedding as NoiseEmbedding
from ._edm_embedding import Positional as Positional
from ._embedding import AbstractFeatures as AbstractFeatures
from ._embedding import Embedding as Embedding
from ._embedding import Fourier as Fourier
from ._embedding import Sinusoidal as Sinusoidal
from ._embedding import class_vector as class_vector
from ._layers import Attention as Attention
from ._layers import Conv as Conv
from ._layers import GroupNorm as GroupNorm
from ._layers import Linear as Linear
from ._mlp import MLP as MLP
from ._mlp import ResidualMLP as ResidualMLP
from ._precision import LowPrecision as LowPrecision
from ._resample import Resample as Resample
from ._trainable import trainable as trainable
from ._unet import UNet as UNet
from ._vgg import VGG16 as VGG16
