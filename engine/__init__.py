"""Parts of a training run: configuration, data, optimizers, checkpoints, tracking, report."""

from engine.arguments import ConfigError, constructing, resolve_arguments
from engine.checkpoint import load_checkpoint, load_weights, save_checkpoint, save_weights, write_text
from engine.command_line import reporting
from engine.config import Config, compose, saved_config, validate
from engine.data import Split, batches_per_epoch, label_shares, micro_batches, present_losses, weigh_losses
from engine.device import compile_model, describe_device, own_threads, place_model, resolve_device, synchronize
from engine.diagnostics import describe_run, profile_run
from engine.distributed import Processes, join_processes
from engine.environment import training_command
from engine.evaluation import Evaluation, Selector, evaluate, expert_shares
from engine.fine_tuning import freeze, frozen_modules, initialize
from engine.finish import finish
from engine.interrupts import StopRequest, interruptible
from engine.model_card import write_model_card
from engine.optimization import PhaseOptimizer, build_phase_optimizer, check_balancer
from engine.precision import Precision
from engine.prediction import model_config
from engine.preferences import draw_preference
from engine.progress import Display
from engine.report import write_report
from engine.resuming import only_writer, resume_command, resumed_config
from engine.run import (
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
from engine.seeding import seed_everything
from engine.tracking import Tracker
from engine.words import check_words, shell_word
