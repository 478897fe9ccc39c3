"""Weigh several losses: one library for every method, with nothing but torch.

>>> balancer = create_balancer("pcgrad", objectives=("class", "price"))
>>> report = balancer.backward({"class": cross_entropy, "price": squared_error})   # instead of sum(losses).backward()
>>> optimizer.step()
"""

from .base import Balancer
from .bilevel.auto_lambda import AutoLambda
from .bilevel.bilevel_balancer import BilevelBalancer
from .bilevel.forum import FORUM
from .bilevel.moml import MOML
from .compiled import allow_several_backwards
from .composed import Composed
from .errors import BalancingError, NonFiniteError
from .factory import balancer_arguments, balancer_class, create_balancer, list_balancers, register_balancer
from .gradients.aligned_mtl import AlignedMTL
from .gradients.cagrad import CAGrad
from .gradients.conflict_free import ConflictFree
from .gradients.conicgrad import ConicGrad
from .gradients.cosine_gate import CosineGate
from .gradients.dualproj import DualProj
from .gradients.epo import EPO
from .gradients.fairgrad import FairGrad
from .gradients.grad_normalize import GradNormalize
from .gradients.gradnorm import GradNorm
from .gradients.gradvac import GradVac
from .gradients.imtl import IMTL
from .gradients.imtl_g import ImpartialGradient
from .gradients.krum import Krum
from .gradients.metabalance import MetaBalance
from .gradients.mgda import MGDA
from .gradients.modo import MoDo
from .gradients.nash_mtl import NashMTL
from .gradients.pareto_mtl import ParetoMTL
from .gradients.pcd import PCD
from .gradients.pcgrad import PCGrad
from .gradients.rotograd import RotoGrad
from .gradients.sdmgrad import SDMGrad
from .gradients.torchjd import torchjd
from .gradients.upgrad import UPGrad
from .gramian_balancer import GramianBalancer
from .groups import group_parameters
from .jacobian_balancer import JacobianBalancer, RowBalancer
from .jacobians.conflict_free_momentum import ConflictFreeMomentum
from .jacobians.db_mtl import DBMTL
from .jacobians.excess_mtl import ExcessMTL
from .jacobians.graddrop import GradDrop
from .jacobians.lra import LearningRateAnnealing
from .jacobians.moco import MoCo
from .jacobians.trimmed_mean import TrimmedMean
from .loss_balancer import LossBalancer, Scalarization, ScheduleBalancer
from .losses.alternating import Alternating
from .losses.cosmos import Cosmos
from .losses.cov_weighting import CoefficientOfVariation
from .losses.dwa import DWA
from .losses.famo import FAMO
from .losses.fixed import Fixed
from .losses.geometric import Geometric
from .losses.go4align import GO4Align
from .losses.group_dro import GroupDRO
from .losses.igb import IGB
from .losses.imtl_l import ImpartialLoss
from .losses.initial_loss import InitialLoss
from .losses.inverse_mean import InverseMean
from .losses.ldc_mtl import LossDiscrepancyControl
from .losses.pbi import PenaltyBoundaryIntersection
from .losses.power_mean import PowerMean
from .losses.preference_sampling import PreferenceSampling
from .losses.prior_loss import PriorLoss
from .losses.realtime import Realtime
from .losses.relobralo import ReLoBRaLo
from .losses.rlw import RLW
from .losses.scheduled import Scheduled
from .losses.single import Single
from .losses.softadapt import SoftAdapt
from .losses.stch import SmoothTchebycheff
from .losses.sum import Sum
from .losses.tchebycheff import Tchebycheff
from .losses.uncertainty import Uncertainty
from .losses.uw_so import SoftOptimalUncertainty
from .method import Method
from .options import BalancerOptions, Options
from .protocol import MultiObjectiveModel, Phase, PreferenceModel
from .report import BalanceReport
from .rotations import Rotations

# fmt: off
__all__ = [
    "AlignedMTL", "Alternating", "AutoLambda", "BalanceReport", "Balancer", "BalancerOptions", "BalancingError",
    "BilevelBalancer", "CAGrad", "CoefficientOfVariation", "Composed", "ConflictFree", "ConflictFreeMomentum",
    "ConicGrad", "CosineGate", "Cosmos", "DBMTL", "DWA", "DualProj", "EPO", "ExcessMTL", "FAMO", "FORUM", "FairGrad", "Fixed", "GO4Align",
    "Geometric", "GradDrop", "GradNorm", "GradNormalize", "GradVac", "GramianBalancer", "GroupDRO", "IGB", "IMTL",
    "ImpartialGradient", "ImpartialLoss", "InitialLoss", "InverseMean", "JacobianBalancer", "Krum", "LearningRateAnnealing", "LossBalancer", "LossDiscrepancyControl",
    "MGDA", "MOML", "MetaBalance", "Method", "MoCo", "MoDo", "MultiObjectiveModel", "NashMTL", "NonFiniteError", "Options", "PCD",
    "PCGrad", "ParetoMTL", "PenaltyBoundaryIntersection", "Phase", "PowerMean", "PreferenceModel", "PreferenceSampling", "PriorLoss", "RLW", "ReLoBRaLo",
    "Realtime", "RotoGrad", "Rotations", "RowBalancer", "SDMGrad", "Scalarization", "ScheduleBalancer", "Scheduled", "Single",
    "SmoothTchebycheff", "SoftAdapt", "SoftOptimalUncertainty", "Sum", "Tchebycheff", "TrimmedMean", "UPGrad", "Uncertainty",
    "allow_several_backwards", "balancer_arguments", "balancer_class", "create_balancer", "group_parameters",
    "list_balancers", "register_balancer", "torchjd",
]
# fmt: on
