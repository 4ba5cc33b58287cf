"""Quality raters: models that give a text one number per criterion; how they are declared, asked, kept and trained."""
