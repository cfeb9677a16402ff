"""The papers that the posterior methods come from."""

from __future__ import annotations

from ..core.method import Reference

WANG_2023 = Reference(
    "wang2023ddnm",
    "Yinhuai Wang and Jiwen Yu and Jian Zhang",
    "Zero-Shot Image Restoration Using Denoising Diffusion Null-Space Model",
    2023,
    "2212.00490",
    "ICLR",
)
LUGMAYR_2022 = Reference(
    "lugmayr2022repaint",
    "Andreas Lugmayr and Martin Danelljan and Andres Romero and Fisher Yu and Radu Timofte and Luc Van Gool",
    "RePaint: Inpainting using Denoising Diffusion Probabilistic Models",
    2022,
    "2201.09865",
    "CVPR",
)
CHUNG_2023 = Reference(
    "chung2023dps",
    "Hyungjin Chung and Jeongsol Kim and Michael T. Mccann and Marc L. Klasky and Jong Chul Ye",
    "Diffusion Posterior Sampling for General Noisy Inverse Problems",
    2023,
    "2209.14687",
    "ICLR",
)
SONG_2023 = Reference(
    "song2023pigdm",
    "Jiaming Song and Arash Vahdat and Morteza Mardani and Jan Kautz",
    "Pseudoinverse-Guided Diffusion Models for Inverse Problems",
    2023,
    venue="ICLR",
)
ROZET_2024 = Reference(
    "rozet2024mmps",
    "Fran{\\c{c}}ois Rozet and G{\\'e}r{\\^o}me Andry and Fran{\\c{c}}ois Lanusse and Gilles Louppe",
    "Learning Diffusion Priors from Observations by Expectation Maximization",
    2024,
    "2405.13712",
    "NeurIPS",
)
BOYS_2023 = Reference(
    "boys2023tmpd",
    "Benjamin Boys and Mark Girolami and Jakiw Pidstrigach and Sebastian Reich and Alan Mosca and O. Deniz Akyildiz",
    "Tweedie Moment Projected Diffusions for Inverse Problems",
    2023,
    "2310.06721",
)
ZHU_2023 = Reference(
    "zhu2023diffpir",
    "Yuanzhi Zhu and Kai Zhang and Jingyun Liang and Jiezhang Cao and Bihan Wen and Radu Timofte and Luc Van Gool",
    "Denoising Diffusion Models for Plug-and-Play Image Restoration",
    2023,
    "2305.08995",
    "CVPR Workshops",
)
KAWAR_2022 = Reference(
    "kawar2022ddrm",
    "Bahjat Kawar and Michael Elad and Stefano Ermon and Jiaming Song",
    "Denoising Diffusion Restoration Models",
    2022,
    "2201.11793",
    "NeurIPS",
)
MARDANI_2024 = Reference(
    "mardani2024reddiff",
    "Morteza Mardani and Jiaming Song and Jan Kautz and Arash Vahdat",
    "A Variational Perspective on Solving Inverse Problems with Diffusion Models",
    2024,
    "2305.04391",
    "ICLR",
)
ZHANG_2025 = Reference(
    "zhang2025daps",
    "Bingliang Zhang and Wenda Chu and Julius Berner and Chenlin Meng and Anima Anandkumar and Yang Song",
    "Improving Diffusion Inverse Problem Solving with Decoupled Noise Annealing",
    2025,
    "2407.01521",
    "CVPR",
)
ZHANG_2021 = Reference(
    "zhang2021dpir",
    "Kai Zhang and Yawei Li and Wangmeng Zuo and Lei Zhang and Luc Van Gool and Radu Timofte",
    "Plug-and-Play Image Restoration with Deep Denoiser Prior",
    2021,
    "2008.13751",
    "TPAMI",
)
