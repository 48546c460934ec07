"""nnUNetv2_train by another schedule than that of XSSRTrainer_pretrained, for fine_tuning.py to compare.

    python benchmarks/schedule.py 0.003 0.1 0 TARGET 2d 0 -tr XSSRTrainer_pretrained_demo ...

The peak learning rate, the share of the epochs in which it rises, whether the decoder rises first (1) or not (0), and
what nnUNetv2_train takes. Trains from scratch, too.
"""

import sys

from nnunetv2.run.run_training import run_training_entry

from nnunetv2_xssr.trainers import XSSRTrainer_pretrained

if __name__ == "__main__":
    peak, warm_up, decoder_first = sys.argv[1:4]
    del sys.argv[1:4]
    XSSRTrainer_pretrained.peak_rate = float(peak)
    XSSRTrainer_pretrained.warm_up = float(warm_up)
    XSSRTrainer_pretrained.decoder_first = decoder_first == "1"
    XSSRTrainer_pretrained._has_loaded_weights = lambda self: True
    run_training_entry()
