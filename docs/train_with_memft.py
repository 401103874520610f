# noqa: INP001  (a script, not a package)
r"""Train a LoRA adapter by MemFT in transformers' own Trainer: the loss is one argument.

    python docs/train_with_memft.py --base DIR --data pairs.jsonl --out adapter

With TRL the argument is the same: `SFTTrainer(..., compute_loss_func=trainer_loss(OnlyThreshold()))`.
"""

import argparse
from pathlib import Path

from lorecall.adapters.training.losses import OnlyThreshold
from lorecall.adapters.training.pairs import read_pairs
from lorecall.adapters.training.trainer_loss import IGNORED, trainer_loss
from peft import LoraConfig, get_peft_model
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainingArguments,
)


def main() -> None:
    """Train on the targets of a file of pairs, and write an adapter directory."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--base", required=True, type=Path, help="A model directory with plain weights.")
    options.add_argument("--data", required=True, type=Path, help='JSON Lines of {"prefix", "target"}.')
    options.add_argument("--out", required=True, type=Path)
    options.add_argument("--rank", type=int, default=8)
    options.add_argument("--epochs", type=int, default=40)
    given = options.parse_args()

    tokenizer = AutoTokenizer.from_pretrained(given.base)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(given.base),
        LoraConfig(
            r=given.rank, lora_alpha=2 * given.rank, target_modules="all-linear", task_type="CAUSAL_LM"
        ),
    )
    rows = []
    for pair in read_pairs(given.data).pairs:
        before = tokenizer(pair.prefix).input_ids
        after = tokenizer(pair.target, add_special_tokens=False).input_ids
        rows.append({"input_ids": before + after, "labels": [IGNORED] * len(before) + after})
    trainer = Trainer(
        model,
        TrainingArguments(
            str(given.out), num_train_epochs=given.epochs, learning_rate=2e-3, save_strategy="no"
        ),
        train_dataset=rows,
        data_collator=DataCollatorForSeq2Seq(tokenizer),
        compute_loss_func=trainer_loss(OnlyThreshold()),
    )
    trainer.train()
    model.save_pretrained(given.out)


if __name__ == "__main__":
    main()
