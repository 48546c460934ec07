"""HSSL: the whole U-Net that a target's plans ask for, pretrained on unlabelled images of several domains.

After "Hierarchical Self-Supervised Learning for Medical Image Segmentation Based on Multi-Domain Data Aggregation"
(Zheng et al., arXiv 2107.04886). Its formulas are not public; what is computed here is our reading.
"""
