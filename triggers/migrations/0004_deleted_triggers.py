from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('triggers', '0003_receipts_are_deliveries'),
    ]

    operations = [
        migrations.AddField(
            model_name='trigger',
            name='deleted_at',
            field=models.DateTimeField(blank=True, editable=False, help_text='It is gone for everybody; its long ledgers still have to go.', null=True),
        ),
    ]
