"""HSSL: pretraining of the whole U-Net of a target's plans on unlabelled images of several domains.

After "Hierarchical Self-Supervised Learning for Medical Image Segmentation Based on Multi-Domain Data Aggregation"
(Zheng et al., arXiv 2107.04886). Its formulas are not public; this is our reading. As there, a task is a dataset, and a
group is a modality or an anatomy of several tasks.
"""

EPOCHS, LEAST_BATCH = 100, 8  # defaults; the batch is that of the plans, where it is larger
