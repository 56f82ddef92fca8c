"""How far fixes can be believed where the world is not the simulator: the table `docs/honesty.md` and how it is made.

`disturbances` changes datasets together with their truth, `rows` names the datasets and what is disturbed in each,
`cells` judges the fixes of one method, `page` writes the Markdown.
"""
