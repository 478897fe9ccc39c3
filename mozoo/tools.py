"""Parts of a training run, under one name for ``train.py``."""

from mozoo.arguments import constructing, resolve_arguments
from mozoo.checkpoint import load_checkpoint, load_weights, save_checkpoint, save_weights, write_text
from mozoo.command_line import reporting
from mozoo.config import CONFIG_DIR, saved_config, validate
from mozoo.data import Split, batches_per_epoch, label_shares, micro_batches, present_losses, weigh_losses
from mozoo.device import compile_model, describe_device, own_threads, place_model, resolve_device, synchronize
from mozoo.diagnostics import describe_run, profile_run
from mozoo.distributed import Processes, join_processes
from mozoo.environment import training_command
from mozoo.evaluation import Evaluation, Selector, evaluate, expert_shares
from mozoo.fine_tuning import freeze, frozen_modules, initialize
from mozoo.finish import finish
from mozoo.hydra_help import mend_help
from mozoo.interrupts import StopRequest, interruptible
from mozoo.model_card import write_model_card
from mozoo.optimization import PhaseOptimizer, build_phase_optimizer, check_balancer
from mozoo.precision import Precision
from mozoo.prediction import model_config
from mozoo.preferences import draw_preference
from mozoo.progress import Display
from mozoo.report import write_report
from mozoo.resuming import only_writer, resume_command, resumed_config
from mozoo.run import (
    Diverged,
    Run,
    State,
    average_batchnorm_buffers,
    checkpoint_state,
    complete_folder,
    epoch_batches,
    evaluation_size,
    extend,
    locate,
    make_task,
    mean_losses,
    mean_weights,
    measured_conflicts,
    open_tracker,
    restore,
    roll_back,
    run_folder,
    sample_pictures,
    saved_state,
    summarize,
)
from mozoo.seeding import seed_everything
from mozoo.sweeping import check_command, end_of_sweep, job
from mozoo.tracking import Tracker
from mozoo.words import shell_word
