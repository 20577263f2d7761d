"""``lightning fit --help``: the settings that people use, at once. ``--help all`` waits for torch and lists all."""

import textwrap

from lightning_modules import METHODS

HELP = """usage: lightning {command} --config FILE [--config FILE ...] [--SETTING VALUE ...]

{about}
Files are laid over each other, then single values.
The settings that people use, with their defaults; ways to see the others stand below.

 the run
  --config FILE                        a YAML file of settings, of yours or of the package (configs/beta_bce.yaml)
  --print_config                       print all settings and their values, and stop; with --brief those that differ
                                       from their defaults
  --name NAME                          the run's folder, runs/NAME; without it the config's (--runs FOLDER: elsewhere)
  --ckpt_path FILE                     the checkpoint to go on from or to measure; last: this run's own
  --resume.accept false                true: go on with other settings than the checkpoint's; or a list of their names
  --resume.anew false                  true: start anew; the run before is moved aside
  --seed_everything true               of weights, order and crops; a number makes runs alike
  --last_checkpoint.every_n_steps 500  how often last.ckpt is written
  --best_checkpoint.monitor val/caption/text_to_image/R@1   what best.ckpt is best at
  --images.every_n_steps 500         images for TensorBoard; 0: none
  --diagnostics.every_n_steps 250      what the embeddings look like; 0: never

 the model
  --model CLASS                        {methods}
  --model.help CLASS                   all settings of a method: lightning {command} --model.help BetaClip
  --model.pretrained NAME              start from a CLIP: hub id, folder or file; without it from scratch
  --model.encoder.image_size 64        pixels of the square; data follows
  --model.encoder.patch_size 8         pixels of a patch's side
  --model.encoder.image_tower NAME     another image tower, timm/resnet50; its weights: --model.encoder.image_weights
  --model.encoder.context_length 248   tokens of the longest text; data follows
  --model.encoder.embed_dim 128        width of the joint space
  --model.optim.lr 0.001               peak learning rate of the towers
  --model.optim.image_lr RATE          of the image tower; without it lr
  --model.optim.text_lr RATE           of the text tower; without it lr
  --model.optim.layer_decay 1.0        factor on the rate from a block to the one before it
  --model.optim.added_modules_lr RATE  of what the method adds, and of LoRA's adapters; without it lr
  --model.freeze.image_tower none      all, all_but_norms, or so many of the first blocks
  --model.freeze.text_tower none       the same
  --model.lora.rank N                  LoRA: trains adapters in place of the towers' weights (needs peft)
  --model.optim.weight_decay 0.01      of matrices
  --model.optim.warmup_steps 100       steps of linear warm-up; then a cosine down to the end
  --model.memory.grad_cache_chunk N          gradient caching: images whose activations are in memory at a time
  --model.memory.activation_checkpointing false   less memory for a second forward pass

 the data
  --data.shards TARS                   tars, folders, globs, braces or URLs; without them the embedded scenes
  --data.val_shards TARS               the validation set
  --data.batch_size 64                 images of a batch on each rank
  --data.global_batch_size N           images of a step over all ranks, in place of batch_size
  --data.val_batch_size 64             images of a batch in validation
  --data.batches_per_epoch N           needed for remote shards, which are not counted
  --data.num_workers N                 loader processes of a rank; without it one for each core but one, at most 8
  --data.sampling.sentences 5          at most so many sentences of an image
  --data.sampling.phrases 30           at most so many phrases of an image
  --data.train_transform CLASS         RandomCrop, CenterCrop or Squash
  --data.weights LIST                  shares of several data sets
  --data.seed 0                        of order, crops and drawn texts

 the trainer
  --trainer.max_epochs N               passes over the data
  --trainer.max_steps -1               optimiser's steps; -1: max_epochs decides
  --trainer.accelerator auto           cpu, gpu, mps
  --trainer.devices auto               how many of them
  --trainer.num_nodes 1                machines
  --trainer.strategy auto              ddp; configs/recipes/ddp.yaml and fsdp2.yaml for many GPUs
  --trainer.precision MODE             bf16-mixed, 32-true, ...; without it the fastest that the hardware has
  --trainer.accumulate_grad_batches 1  batches of a step
  --trainer.gradient_clip_val NORM     gradients are clipped to this norm
  --trainer.log_every_n_steps N        how often numbers are logged (50)
  --trainer.val_check_interval N       validate after so many batches, or after a share of the epoch
  --trainer.limit_val_batches N        validate on so many batches, or on a share of them
  --trainer.logger CLASS               TensorBoardLogger, CSVLogger, WandbLogger; false: none
  --trainer.callbacks+=CLASS           one callback more: Benchmarks, AverageWeights, CompileBlocks

  lightning {command} --model.help MulClip          all settings of a method, explained
  lightning {command} --config FILE --print_config  all settings and their values
  lightning {command} --help all                    all settings, Lightning's too
"""
ABOUT = {
    "fit": "Trains; started again, it goes on from its last checkpoint.",
    "validate": "Measures a checkpoint on the validation set.",
    "test": "Measures a checkpoint on the validation set and by the config's benchmarks.",
}
FLAGS = ("--help", "-h")


def wants_short_help(words: list[str]) -> bool:
    """True if help is asked for, but not ``--help all``."""
    asked = [place for place, word in enumerate(words) if word in FLAGS]
    return bool(asked) and words[asked[0] + 1 : asked[0] + 2] != ["all"]


def without_all(words: list[str]) -> list[str]:
    """``--help all`` as the parser knows it: ``--help``."""
    return [word for place, word in enumerate(words) if not (word == "all" and words[place - 1] in FLAGS)]


def short_help(command: str) -> str:
    """The text for ``fit``, ``validate`` or ``test``."""
    methods = textwrap.fill(", ".join([*METHODS, "or your own"]), width=77, subsequent_indent=" " * 39)
    return HELP.format(command=command, about=ABOUT[command], methods=methods)
